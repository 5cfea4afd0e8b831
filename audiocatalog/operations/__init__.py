"""Operations on the database: generators that yield statements and are sent rows."""
