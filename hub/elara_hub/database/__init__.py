"""The service's database: tables, transactions, migrations."""
