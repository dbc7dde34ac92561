"""The web app: the layout, what its tabs share, and a file for each kind of tab."""

import os

# Gradio reads these when it is imported. The app stays offline, and reads its port itself: gradio
# has a traceback for one that is no number.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
SERVER_PORT = os.environ.pop("GRADIO_SERVER_PORT", "")
