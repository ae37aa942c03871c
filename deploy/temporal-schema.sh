#!/bin/sh
# Makes Temporal's two databases and brings their schemas to this image's version; may be repeated.
set -eu

for database in temporal temporal_visibility; do
    case "$database" in
        temporal) schema=temporal ;;
        *) schema=visibility ;;
    esac
    # The password comes from SQL_PASSWORD, so that it stands in no list of processes.
    sql() {
        temporal-sql-tool --plugin postgres12 --ep "$POSTGRES_SEEDS" -p "$DB_PORT" \
            -u "$POSTGRES_USER" --db "$database" "$@"
    }
    echo "Setting up the database $database"
    sql create
    sql setup-schema -v 0.0
    sql update-schema -d "/etc/temporal/schema/postgresql/v12/$schema/versioned"
done
