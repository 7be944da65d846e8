"""How operators are computed: each lowering in a module or package of its own."""
