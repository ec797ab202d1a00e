"""How a measurement is made: alone on its device, interleaved, on the quietest cores."""
