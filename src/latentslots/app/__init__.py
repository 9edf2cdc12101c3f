"""What people look at: the demo's page."""
