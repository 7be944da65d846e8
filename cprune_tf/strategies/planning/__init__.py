"""What a global strategy plans with: options of every channel group, and which of them to take."""
