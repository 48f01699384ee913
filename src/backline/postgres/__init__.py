"""PostgreSQL: connections, SQLSTATEs, migrations, and the store over them."""
