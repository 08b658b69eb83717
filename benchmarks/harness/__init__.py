"""How anything is measured, and what a record holds: clocks, memory, the machine, the schema. Knows no benchmark."""
