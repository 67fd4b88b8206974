"""Problems in other languages: translated, checked, and kept with what they were made of."""
