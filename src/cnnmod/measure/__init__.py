"""What a network costs, and what a MoD network costs beside its baseline and its control."""
