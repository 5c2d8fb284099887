"""The page that shows running jobs in a browser; needs the extra `dashboard`."""
