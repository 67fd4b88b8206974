"""Problems: from files, the Hub and streams."""
