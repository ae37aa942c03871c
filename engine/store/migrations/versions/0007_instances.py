"""Several instances of one plugin in a community: each has a name, at first its plugin's.

Revision: 0007, after 0006.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# SQLite gave the constraint of the first schema no name; this is what it is called by here.
NAMING = {"uq": "%(table_name)s_%(column_0_N_name)s_key"}
NAMED = ("governance_process", "received_webhook", "plugin_instance")


@contextmanager
def state_kept() -> Iterator[None]:
    """Keep the state, which goes with the old table where SQLite makes it anew."""
    if op.get_bind().dialect.name != "sqlite":
        yield
        return
    op.execute("CREATE TEMPORARY TABLE kept_state AS SELECT * FROM plugin_state")
    yield
    op.execute("DELETE FROM plugin_state")
    op.execute(
        "INSERT INTO plugin_state (instance_id, key, value) "
        "SELECT instance_id, key, value FROM kept_state"
    )
    op.execute("DROP TABLE kept_state")


def upgrade() -> None:
    """Bring the schema forward."""
    for name in NAMED:
        op.add_column(name, sa.Column("instance", sa.String(64), nullable=True))
        op.execute(
            sa.update(sa.table(name, sa.column("instance"))).values(instance=sa.column("plugin"))
        )
    for name in NAMED[:2]:
        with op.batch_alter_table(name) as table:
            table.alter_column("instance", existing_type=sa.String(64), nullable=False)
    op.add_column(
        "governance_process", sa.Column("community_platform_id", sa.String(255), nullable=True)
    )
    with state_kept(), op.batch_alter_table("plugin_instance", naming_convention=NAMING) as table:
        table.alter_column("instance", existing_type=sa.String(64), nullable=False)
        table.add_column(sa.Column("community_platform_id", sa.String(255), nullable=True))
        table.add_column(sa.Column("exclusive", sa.Boolean(), nullable=True))
        table.drop_constraint("plugin_instance_community_plugin_key", type_="unique")
        table.create_unique_constraint(
            "plugin_instance_community_instance_key", ["community", "instance"]
        )
        table.create_unique_constraint(
            "plugin_instance_plugin_community_platform_id_exclusive_key",
            ["plugin", "community_platform_id", "exclusive"],
        )


def downgrade() -> None:
    """Bring the schema back; a community that has several instances of a plugin cannot go back."""
    with state_kept(), op.batch_alter_table("plugin_instance", naming_convention=NAMING) as table:
        table.drop_constraint(
            "plugin_instance_plugin_community_platform_id_exclusive_key", type_="unique"
        )
        table.drop_constraint("plugin_instance_community_instance_key", type_="unique")
        table.create_unique_constraint(
            "plugin_instance_community_plugin_key", ["community", "plugin"]
        )
        table.drop_column("exclusive")
        table.drop_column("community_platform_id")
        table.drop_column("instance")
    with op.batch_alter_table("governance_process") as table:
        table.drop_column("community_platform_id")
        table.drop_column("instance")
    with op.batch_alter_table("received_webhook") as table:
        table.drop_column("instance")
