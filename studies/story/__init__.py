"""What the notebooks show: tables joined from the results, lenses chosen for figures, numbers."""
