#!/usr/bin/env bash
# Builds the images, makes a kind cluster, installs the chart with its demo values and asks it for a
# few tokens. Wants docker, kind, kubectl and helm. `kind delete cluster --name treedraft` ends it.
#
# Written, but not yet run by the project's own checks, which have no Docker.
set -euo pipefail
cd "$(dirname "$0")/.."

for tool in docker kind kubectl helm; do
  command -v "$tool" >/dev/null || { echo "kind.sh: $tool is not installed" >&2; exit 1; }
done

version="$(sed -n 's/^appVersion: "\(.*\)"$/\1/p' helm/treedraft/Chart.yaml)"
for target in control inference-cpu; do
  docker build --file deploy/docker/Dockerfile --target "$target" --tag "treedraft/$target:$version" .
done

kind get clusters | grep --quiet --line-regexp treedraft || kind create cluster --config deploy/kind/cluster.yaml
kind load docker-image --name treedraft "treedraft/control:$version" "treedraft/inference-cpu:$version"

context=kind-treedraft
kubectl --context "$context" create namespace serving --dry-run=client --output=yaml |
  kubectl --context "$context" apply --filename -
kubectl --context "$context" label --overwrite namespace serving pod-security.kubernetes.io/enforce=restricted
helm upgrade demo helm/treedraft --install --kube-context "$context" --namespace serving \
  --values helm/treedraft/examples/cpu-demo.yaml --wait --timeout 20m
helm test demo --kube-context "$context" --namespace serving --logs
