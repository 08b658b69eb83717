"""How good bases and modules are on R8."""
