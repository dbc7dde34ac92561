"""The page of the app, a file for each of its parts; `app.py` puts them together."""
