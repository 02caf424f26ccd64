"""The delivery room: frozen results leave for their destinations until each has arrived."""
