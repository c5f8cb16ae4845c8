"""What several pieces compute with; nothing here is named by a recipe."""
