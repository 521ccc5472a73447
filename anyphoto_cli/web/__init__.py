"""`anyphoto layout edit`: a layout on a page of this machine, for this machine's user alone."""
