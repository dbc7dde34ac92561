"""The app's page: shared parts, and a tab for each thing that can be done."""
