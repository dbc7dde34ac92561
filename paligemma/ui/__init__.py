"""The web app: the layout, what its tabs share, and a file for each kind of tab."""

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # gradio reads it on import: the app stays offline
