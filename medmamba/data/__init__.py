"""Cases on their way into a network and back."""
