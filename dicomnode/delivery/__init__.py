"""The delivery room: frozen results leave for their destinations and are asked after until they have arrived."""
