"""What people look at, of one run or several: curves, pages, sample grids."""
