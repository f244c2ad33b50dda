TABLE = "apples"
