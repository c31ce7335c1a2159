#!/bin/sh
# A Spark Connect server on the cluster that $1 names, configured as this deployment's sessions need it.
# CONNECT_PORT, CONNECT_ADDRESS: where it listens. DRIVER_HOST: what executors call it. EVENTS: where the history server looks.
set -eu
umask 077
properties=$(mktemp)
lakehouse spark conf --server > "$properties"
exec spark-class org.apache.spark.deploy.SparkSubmit --properties-file "$properties" --master "$1" \
  --conf "spark.connect.grpc.binding.port=${CONNECT_PORT:-15002}" \
  --conf "spark.connect.grpc.binding.address=${CONNECT_ADDRESS:-0.0.0.0}" \
  --conf "spark.driver.host=${DRIVER_HOST:-spark-connect}" --conf "spark.driver.bindAddress=${CONNECT_ADDRESS:-0.0.0.0}" \
  --conf spark.eventLog.enabled=true --conf "spark.eventLog.dir=file://${EVENTS:-/opt/events}" \
  --class org.apache.spark.sql.connect.service.SparkConnectServer spark-internal
