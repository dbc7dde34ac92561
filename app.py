"""The web app: python app.py [--model M] [--port 7860] [--help]. A hosted Space runs this file."""

from paligemma.ui.app import main

if __name__ == "__main__":
    main()
