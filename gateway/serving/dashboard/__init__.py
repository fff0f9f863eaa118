"""The dashboard: its page, plain HTML, CSS and ES modules without a build step, and the routes that serve it."""
