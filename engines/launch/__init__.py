"""Launchers: how engine processes are started, restarted with other settings, and watched."""
