"""Which of several models is better, told from the scores that they have on the same items."""
