"""First schema.

Revision: 0001, after None.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the schema forward."""
    op.create_table(
        "community",
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("readable_name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "community_change",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("community", sa.String(128), nullable=False),
        sa.Column("desired_encrypted", sa.Text(), nullable=True),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("created", sa.Boolean(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        op.f("ix_community_change_community"), "community_change", ["community"], unique=False
    )

    op.create_table(
        "governance_process",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("community", sa.String(128), nullable=False),
        sa.Column("plugin", sa.String(64), nullable=False),
        sa.Column("slug", sa.String(64), nullable=False),
        sa.Column("instance_id", sa.String(36), nullable=False),
        sa.Column("parameters", sa.Text(), nullable=False),
        sa.Column("callback_url", sa.Text(), nullable=True),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("errors", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=True),
        sa.Column("title", sa.Text(), nullable=True),
        sa.Column("correlation_key", sa.String(255), nullable=True),
        sa.Column("closing_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("poll_every_seconds", sa.Float(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "governance_process_community",
        "governance_process",
        ["community", "created_at"],
        unique=False,
    )
    op.create_index(
        "governance_process_listing", "governance_process", ["created_at", "id"], unique=False
    )
    op.create_index(
        "governance_process_routing",
        "governance_process",
        ["instance_id", "status", "correlation_key"],
        unique=False,
    )

    op.create_table(
        "idempotency_key",
        sa.Column("scope", sa.String(300), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("body_hash", sa.String(64), nullable=False),
        sa.Column("resource_id", sa.String(36), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("scope", "key"),
    )
    op.create_index(
        op.f("ix_idempotency_key_created_at"), "idempotency_key", ["created_at"], unique=False
    )

    op.create_table(
        "invocation",
        sa.Column("id", sa.String(80), nullable=False),
        sa.Column("community", sa.String(128), nullable=False),
        sa.Column("instance_id", sa.String(36), nullable=False),
        sa.Column("plugin", sa.String(64), nullable=False),
        sa.Column("target", sa.String(128), nullable=False),
        sa.Column("parameters", sa.Text(), nullable=True),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("result", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_invocation_finished_at"), "invocation", ["finished_at"], unique=False)

    op.create_table(
        "outbox_item",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("community", sa.String(128), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=True),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("last_status", sa.Integer(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("community", "position"),
    )
    op.create_index(
        op.f("ix_outbox_item_finished_at"), "outbox_item", ["finished_at"], unique=False
    )
    op.create_index(op.f("ix_outbox_item_status"), "outbox_item", ["status"], unique=False)

    op.create_table(
        "outbox_sequence",
        sa.Column("community", sa.String(128), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("community"),
    )
    op.create_table(
        "received_webhook",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("instance_id", sa.String(36), nullable=False),
        sa.Column("community", sa.String(128), nullable=False),
        sa.Column("plugin", sa.String(64), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("query", sa.Text(), nullable=False),
        sa.Column("headers", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("handled_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        op.f("ix_received_webhook_handled_at"), "received_webhook", ["handled_at"], unique=False
    )
    op.create_index(
        op.f("ix_received_webhook_instance_id"), "received_webhook", ["instance_id"], unique=False
    )
    op.create_index(
        op.f("ix_received_webhook_status"), "received_webhook", ["status"], unique=False
    )

    op.create_table(
        "plugin_instance",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("community", sa.String(length=128), nullable=False),
        sa.Column("plugin", sa.String(64), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("config_encrypted", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["community"], ["community.name"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("community", "plugin"),
    )
    op.create_index(op.f("ix_plugin_instance_plugin"), "plugin_instance", ["plugin"], unique=False)

    op.create_table(
        "plugin_state",
        sa.Column("instance_id", sa.String(length=36), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["instance_id"], ["plugin_instance.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("instance_id", "key"),
    )


def downgrade() -> None:
    """Bring the schema back."""
    op.drop_table("plugin_state")
    op.drop_index(op.f("ix_plugin_instance_plugin"), "plugin_instance")

    op.drop_table("plugin_instance")
    op.drop_index(op.f("ix_received_webhook_status"), "received_webhook")
    op.drop_index(op.f("ix_received_webhook_instance_id"), "received_webhook")
    op.drop_index(op.f("ix_received_webhook_handled_at"), "received_webhook")

    op.drop_table("received_webhook")
    op.drop_table("outbox_sequence")
    op.drop_index(op.f("ix_outbox_item_status"), "outbox_item")
    op.drop_index(op.f("ix_outbox_item_finished_at"), "outbox_item")

    op.drop_table("outbox_item")
    op.drop_index(op.f("ix_invocation_finished_at"), "invocation")

    op.drop_table("invocation")
    op.drop_index(op.f("ix_idempotency_key_created_at"), "idempotency_key")

    op.drop_table("idempotency_key")
    op.drop_index("governance_process_routing", "governance_process")
    op.drop_index("governance_process_listing", "governance_process")
    op.drop_index("governance_process_community", "governance_process")

    op.drop_table("governance_process")
    op.drop_index(op.f("ix_community_change_community"), "community_change")

    op.drop_table("community_change")
    op.drop_table("community")
