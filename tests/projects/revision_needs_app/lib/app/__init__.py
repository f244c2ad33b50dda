import sqlalchemy as sa

ready = False
metadata = sa.MetaData()
apples = sa.Table("apples", metadata, sa.Column("id", sa.Integer, primary_key=True))
