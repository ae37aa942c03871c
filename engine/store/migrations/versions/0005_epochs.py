"""Epochs: which of the database's lives a position belongs to.

Revision: 0005, after 0004.
"""

import time

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the schema forward."""
    epochs = op.create_table(
        "database_epoch",
        sa.Column("epoch", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("restored_to", sa.BigInteger(), nullable=False),
        sa.Column("continues_after", sa.BigInteger(), nullable=False),
        sa.Column("found_by", sa.String(16), nullable=False),
        sa.Column("backup_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("beats", sa.BigInteger(), nullable=False),
        sa.Column("beat_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("put_right", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("epoch"),
    )
    first = time.time_ns() // 1_000_000
    op.bulk_insert(
        epochs,
        [
            {
                "epoch": first,
                "restored_to": 0,
                "continues_after": 0,
                "found_by": "",
                "beats": 0,
            }
        ],
    )
    # The default is for the rows that there are, and for processes of the version before.
    for name in ("outbox_sequence", "outbox_item"):
        with op.batch_alter_table(name) as table:
            table.add_column(
                sa.Column("epoch", sa.BigInteger(), server_default=str(first), nullable=False)
            )


def downgrade() -> None:
    """Bring the schema back."""
    for name in ("outbox_item", "outbox_sequence"):
        with op.batch_alter_table(name) as table:
            table.drop_column("epoch")
    op.drop_table("database_epoch")
