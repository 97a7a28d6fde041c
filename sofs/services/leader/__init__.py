"""The leader: which machines serve, with which parts and addresses. Its death stops nothing."""
