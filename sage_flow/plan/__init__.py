"""From what the user wrote to what will run: logical graph, validation, chaining, physical plan, drawing."""
