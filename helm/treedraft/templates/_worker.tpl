{{- /* Targets and drafters: all objects of one pool. */ -}}

{{- /* Parameters of all: root, component ("target" or "draft"), pool (its name), spec. */}}

{{- define "treedraft.worker.isLookup" -}}
{{- if and (eq .component "draft") (eq .spec.model.source "hub") (eq .spec.model.hub "lookup") }}true{{ end }}
{{- end }}

{{- define "treedraft.worker.image" -}}
{{- $kind := .spec.image }}
{{- if not $kind }}
{{- $kind = ternary "cuda" "cpu" (gt (int .spec.gpus) 0) }}
{{- if include "treedraft.worker.isLookup" . }}{{ $kind = "control" }}{{ end }}
{{- end }}
{{- get .root.Values.images $kind | toJson }}
{{- end }}

{{- /* Where the model is found in the pod. */}}
{{- define "treedraft.worker.model" -}}
{{- $model := .spec.model }}
{{- $place := printf "%sPools.%s.model" .component .pool }}
{{- if include "treedraft.worker.isLookup" . }}
{{- else if eq $model.source "hub" }}
{{- required (printf "%s.hub: name a model" $place) $model.hub }}
{{- else if eq $model.source "volume" }}
{{- $_ := required (printf "%s.volume.claim: name the PersistentVolumeClaim with the model" $place) $model.volume.claim }}
{{- printf "/models/%s" $model.volume.path | trimSuffix "/" }}
{{- else }}
{{- if not (include "treedraft.api.imageVolumes" .root) }}
{{- fail (printf "%s.source: oci needs image volumes: Kubernetes 1.35, or 1.31 with the feature gate ImageVolume and kubernetes.imageVolumes=true" $place) }}
{{- end }}
{{- $_ := required (printf "%s.oci.reference: name the artefact with the model" $place) $model.oci.reference }}
{{- printf "/models/%s" $model.oci.path | trimSuffix "/" }}
{{- end }}
{{- end }}

{{- define "treedraft.worker.env" -}}
{{- $owned := dict "model" (include "treedraft.worker.model" .) }}
{{- with .spec.model.name }}{{ $owned = set $owned "model_name" . }}{{ end }}
{{- if eq .component "target" }}{{ $owned = set $owned "drain_seconds" .spec.drainSeconds }}{{ end }}
{{- $worker := dict "worker_id" "$(POD_NAME)" "coordinators" (include "treedraft.coordinator.endpoint" .root) }}
{{- $worker = set $worker "pool" .pool }}
{{- $worker = set $worker "weight" .spec.weight }}
{{- $owned = set $owned "worker" $worker }}
{{- include "treedraft.env" (dict "root" .root "component" .component "settings" .spec.settings "owned" $owned) }}
- name: TREEDRAFT_CACHE
  value: /cache/treedraft
- name: HF_HOME
  value: /cache/hub
- name: TORCHINDUCTOR_CACHE_DIR
  value: /cache/inductor
- name: TRITON_CACHE_DIR
  value: /cache/triton
{{- if ne .spec.model.source "hub" }}
- name: HF_HUB_OFFLINE
  value: "1"
{{- end }}
{{- with .spec.model.hubTokenSecret }}
{{- if .name }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ .name }}
      key: {{ default "token" .key }}
{{- end }}
{{- end }}
{{- end }}

{{- define "treedraft.worker.volumes" -}}
{{- include "treedraft.volumes" . }}
{{- if not .spec.cache.persistent }}
- name: cache
  emptyDir:
    sizeLimit: {{ .spec.cache.size }}
{{- end }}
{{- if eq .spec.model.source "volume" }}
- name: model
  persistentVolumeClaim:
    claimName: {{ .spec.model.volume.claim }}
    readOnly: true
{{- else if eq .spec.model.source "oci" }}
- name: model
  image:
    reference: {{ .spec.model.oci.reference }}
    pullPolicy: {{ .spec.model.oci.pullPolicy }}
{{- end }}
{{- end }}

{{- define "treedraft.worker.mounts" -}}
- name: cache
  mountPath: /cache
{{- if ne .spec.model.source "hub" }}
- name: model
  mountPath: /models
  readOnly: true
{{- end }}
{{- end }}

{{- define "treedraft.worker.podTemplate" -}}
{{- $image := include "treedraft.worker.image" . | fromJson }}
{{- $drain := ternary (int (default 0 .spec.drainSeconds)) 0 (eq .component "target") }}
{{- $more := dict "image" $image "env" (include "treedraft.worker.env" .) "mounts" (include "treedraft.worker.mounts" .) "preStopSeconds" 1 "startupSeconds" (int .spec.startupSeconds) }}
{{- $container := include "treedraft.container" (merge $more .) }}
{{- /* 1 s pause, the drain, 10 s for running calls, 10 s for the engine, and some over. */}}
{{- $grace := add $drain 30 }}
{{- include "treedraft.podTemplate" (merge (dict "container" $container "volumes" (include "treedraft.worker.volumes" .) "graceSeconds" $grace) .) }}
{{- end }}

{{- define "treedraft.worker.workload" -}}
{{- $isStateful := eq .spec.workload "StatefulSet" }}
{{- if and .spec.cache.persistent (not $isStateful) }}
{{- fail (printf "%sPools.%s: cache.persistent needs workload: StatefulSet" .component .pool) }}
{{- end -}}
apiVersion: apps/v1
kind: {{ .spec.workload }}
{{ include "treedraft.metadata" . }}
spec:
  {{- if not (include "treedraft.isScaled" .) }}
  replicas: {{ .spec.replicas }}
  {{- end }}
  selector:
    matchLabels:
      {{- include "treedraft.selectorLabels" . | nindent 6 }}
  {{- if $isStateful }}
  serviceName: {{ include "treedraft.componentName" . }}
  # Pods know nothing of each other: all may start at once, and one ends only when told to.
  podManagementPolicy: Parallel
  {{- if .spec.cache.persistent }}
  {{- if include "treedraft.since" (list .root "1.27") }}
  persistentVolumeClaimRetentionPolicy:
    whenDeleted: Delete
    whenScaled: Retain
  {{- end }}
  volumeClaimTemplates:
    - metadata:
        name: cache
      spec:
        accessModes: [ReadWriteOnce]
        {{- with .spec.cache.storageClass }}
        storageClassName: {{ . }}
        {{- end }}
        resources:
          requests:
            storage: {{ .spec.cache.size }}
  {{- end }}
  {{- else }}
  strategy:
    rollingUpdate:
      maxUnavailable: 0
  {{- end }}
  template:
    {{- include "treedraft.worker.podTemplate" . | nindent 4 }}
{{- end }}

{{- /* Gives pods names; only readers of metrics connect through it. */}}
{{- define "treedraft.worker.service" -}}
apiVersion: v1
kind: Service
{{ include "treedraft.metadata" . }}
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector:
    {{- include "treedraft.selectorLabels" . | nindent 4 }}
  ports:
    - name: grpc
      port: {{ include "treedraft.port.grpc" . }}
      targetPort: grpc
      protocol: TCP
    {{- if .root.Values.metrics.enabled }}
    - name: metrics
      port: {{ .root.Values.metrics.port }}
      targetPort: metrics
      protocol: TCP
    {{- end }}
{{- end }}

{{- /* (dict "root" $ "component" "target"): everything of all its pools. */}}
{{- define "treedraft.workers" -}}
{{- $root := .root }}{{ $component := .component }}
{{- $pools := include "treedraft.pools" . | fromJson }}
{{- if $pools }}
{{ include "treedraft.serviceAccount" . }}
{{- end }}
{{- range $pool, $spec := $pools }}
{{- $of := dict "root" $root "component" $component "pool" $pool "spec" $spec }}
---
{{ include "treedraft.worker.service" $of }}
---
{{ include "treedraft.worker.workload" $of }}
---
{{ include "treedraft.disruptionBudget" $of }}
{{- end }}
{{- end }}
