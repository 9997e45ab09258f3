"""How the network is executed when serving: the same answers in fewer CPU cycles."""
