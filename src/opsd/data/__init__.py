"""Problems: from files, the hub and streams."""
