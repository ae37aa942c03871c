"""Endpoints with secrets, one sequence for readers, webhooks known by the platform's id.

Revision: 0002, after 0001.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the schema forward."""
    op.create_table(
        "endpoint",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("secrets_encrypted", sa.Text(), nullable=True),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("url"),
    )
    with op.batch_alter_table("outbox_item") as table:
        table.add_column(sa.Column("queued_at", sa.DateTime(timezone=True), nullable=True))
        table.add_column(sa.Column("sequence", sa.BigInteger(), nullable=True))
    op.execute("UPDATE outbox_item SET queued_at = created_at")
    with op.batch_alter_table("outbox_item") as table:
        table.alter_column("queued_at", existing_type=sa.DateTime(timezone=True), nullable=False)
    op.create_index("outbox_item_feed", "outbox_item", ["sequence"], unique=True)
    op.create_index("outbox_item_listing", "outbox_item", ["created_at", "id"])
    with op.batch_alter_table("received_webhook") as table:
        table.add_column(sa.Column("delivery_id", sa.String(255), nullable=True))
        table.add_column(sa.Column("tries", sa.Integer(), nullable=False, server_default="0"))
        table.add_column(
            sa.Column("replayed", sa.Boolean(), nullable=False, server_default=sa.false())
        )
        table.add_column(sa.Column("replays", sa.Integer(), nullable=False, server_default="0"))
    with op.batch_alter_table("received_webhook") as table:
        table.alter_column("tries", existing_type=sa.Integer(), server_default=None)
        table.alter_column("replayed", existing_type=sa.Boolean(), server_default=None)
        table.alter_column("replays", existing_type=sa.Integer(), server_default=None)
    op.create_index(
        "received_webhook_delivery",
        "received_webhook",
        ["instance_id", "delivery_id"],
        unique=True,
    )
    op.create_index("received_webhook_listing", "received_webhook", ["received_at", "id"])
    op.create_index(
        op.f("ix_idempotency_key_resource_id"), "idempotency_key", ["resource_id"], unique=False
    )


def downgrade() -> None:
    """Bring the schema back."""
    op.drop_index(op.f("ix_idempotency_key_resource_id"), "idempotency_key")
    op.drop_index("received_webhook_listing", "received_webhook")
    op.drop_index("received_webhook_delivery", "received_webhook")
    with op.batch_alter_table("received_webhook") as table:
        table.drop_column("replays")
        table.drop_column("replayed")
        table.drop_column("tries")
        table.drop_column("delivery_id")
    op.drop_index("outbox_item_listing", "outbox_item")
    op.drop_index("outbox_item_feed", "outbox_item")
    with op.batch_alter_table("outbox_item") as table:
        table.drop_column("sequence")
        table.drop_column("queued_at")
    op.drop_table("endpoint")
