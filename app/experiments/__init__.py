"""Two versions compared on windows that both answered: how they differ, and which is right more often where labels have arrived."""
