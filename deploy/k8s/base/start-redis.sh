# Starts Redis with the password of the Secret, which neither the command line nor a file shows.
set -eu
refuse() {
    echo "REDIS_PASSWORD in secrets.env $1; make one with: openssl rand -hex 24" >&2
    exit 64
}
case "${REDIS_PASSWORD:-}" in
'') refuse "is empty" ;;
# it becomes part of a URL
*[!0-9A-Za-z]*) refuse "may have letters and digits only" ;;
esac
[ "${#REDIS_PASSWORD}" -ge 16 ] || refuse "has fewer than 16 characters"
exec redis-server "${REDIS_CONF:-/etc/redis/redis.conf}" - <<END
requirepass $REDIS_PASSWORD
END
