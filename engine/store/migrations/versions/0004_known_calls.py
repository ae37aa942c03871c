"""What may have run, in which order webhooks were accepted, and whose calls took a worker down.

Revision: 0004, after 0003.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the schema forward."""
    # Defaults stay: processes of the version before may still run, and know no such columns.
    with op.batch_alter_table("governance_process") as table:
        table.add_column(sa.Column("began_at", sa.DateTime(timezone=True), nullable=True))
        table.add_column(
            sa.Column("webhooks_left_out", sa.Integer(), nullable=False, server_default="0")
        )
    # Whether what was accepted before was begun is not known: that it was is the safe answer.
    op.execute("UPDATE governance_process SET began_at = created_at")
    op.execute("UPDATE invocation SET status = 'running' WHERE status = 'accepted'")
    with op.batch_alter_table("received_webhook") as table:
        table.add_column(sa.Column("sequence", sa.BigInteger(), nullable=False, server_default="0"))
        table.add_column(
            sa.Column("routed", sa.Boolean(), nullable=False, server_default=sa.false())
        )
    op.execute(
        sa.text("UPDATE received_webhook SET routed = :yes WHERE status <> 'received'").bindparams(
            yes=True
        )
    )
    op.create_index(
        "received_webhook_order", "received_webhook", ["instance_id", "routed", "sequence"]
    )
    op.create_index("received_webhook_sequence", "received_webhook", ["sequence"])
    if op.get_bind().dialect.name == "postgresql":
        op.execute("CREATE SEQUENCE received_webhook_sequence_numbers")
    op.create_table(
        "lost_call",
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("instance_id", sa.String(36), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_index(op.f("ix_lost_call_instance_id"), "lost_call", ["instance_id"])
    op.create_index(op.f("ix_lost_call_last_at"), "lost_call", ["last_at"])
    with op.batch_alter_table("instance_pace") as table:
        table.add_column(sa.Column("stopped_until", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    """Bring the schema back."""
    with op.batch_alter_table("instance_pace") as table:
        table.drop_column("stopped_until")
    op.drop_table("lost_call")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP SEQUENCE received_webhook_sequence_numbers")
    op.drop_index("received_webhook_sequence", "received_webhook")
    op.drop_index("received_webhook_order", "received_webhook")
    with op.batch_alter_table("received_webhook") as table:
        table.drop_column("routed")
        table.drop_column("sequence")
    with op.batch_alter_table("governance_process") as table:
        table.drop_column("webhooks_left_out")
        table.drop_column("began_at")
