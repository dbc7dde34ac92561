"""Inside the model: recorded attention, ways to view it, and what explains an answer."""
