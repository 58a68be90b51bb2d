{{- /* The one skeleton of all pods. It meets the Pod Security Standard "restricted": nothing in
       values can loosen that. */ -}}

{{- define "treedraft.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end }}

{{- /* Parameters, in a dict:
       root, component, pool   whose pod it is
       spec                    values: scheduling and the like
       container               the main container, as YAML
       graceSeconds            time from the end's announcement to its enforcement
       volumes                 as YAML; a folder for temporary files is always there
       withToken               whether the pod may speak to the API server */}}
{{- define "treedraft.podTemplate" -}}
metadata:
  labels:
    {{- /* Nothing that changes with a version of the chart: that would start all pods anew. */}}
    {{- include "treedraft.selectorLabels" . | nindent 4 }}
    {{- with .spec.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .spec.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "treedraft.componentName" (dict "root" .root "component" .component) }}
  automountServiceAccountToken: {{ default false .withToken }}
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .graceSeconds }}
  securityContext:
    runAsNonRoot: true
    runAsUser: {{ default 65532 .user }}
    runAsGroup: {{ default 65532 .user }}
    fsGroup: {{ default 65532 .user }}
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile:
      type: RuntimeDefault
  {{- with .root.Values.images.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  containers:
    - {{- .container | nindent 6 }}
  volumes:
    - name: tmp
      emptyDir:
        sizeLimit: 1Gi
    {{- with .volumes }}
    {{- . | nindent 4 }}
    {{- end }}
  {{- include "treedraft.scheduling" . | nindent 2 }}
{{- end }}

{{- define "treedraft.scheduling" -}}
{{- with .spec.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .spec.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .spec.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .spec.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- $tolerations := .spec.tolerations }}
{{- if .spec.gpus }}
{{- $tolerations = append $tolerations (dict "key" .spec.gpuResource "operator" "Exists" "effect" "NoSchedule") }}
{{- end }}
{{- with $tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if ne .spec.spread "none" }}
topologySpreadConstraints:
  {{- $selector := include "treedraft.selectorLabels" . }}
  {{- $unsatisfiable := ternary "DoNotSchedule" "ScheduleAnyway" (eq .spec.spread "require") }}
  {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: {{ $unsatisfiable }}
    labelSelector:
      matchLabels:
        {{- $selector | nindent 8 }}
  {{- end }}
{{- end }}
{{- end }}

{{- /* A container of one of our services. Parameters, in a dict: root, component, spec as above;
       image: its values; env, mounts: as YAML; ports: a list of dicts; preStopSeconds;
       startupSeconds. The startup probe waits for a model; the readiness probe asks whether the
       service can do its work; the liveness probe whether its process answers at all, which no
       peer has a part in. */}}
{{- define "treedraft.container" -}}
name: {{ .component }}
image: {{ include "treedraft.image" . }}
imagePullPolicy: {{ .root.Values.images.pullPolicy }}
args: [{{ .component }}]
env:
  {{- .env | nindent 2 }}
  {{- with .spec.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
ports:
  - name: grpc
    containerPort: {{ include "treedraft.port.grpc" . }}
    protocol: TCP
  - name: health
    containerPort: {{ include "treedraft.port.health" . }}
    protocol: TCP
  {{- range .ports }}
  - name: {{ .name }}
    containerPort: {{ .port }}
    protocol: TCP
  {{- end }}
  {{- if .root.Values.metrics.enabled }}
  - name: metrics
    containerPort: {{ .root.Values.metrics.port }}
    protocol: TCP
  {{- end }}
startupProbe:
  {{- include "treedraft.probe" (dict "root" .root) | nindent 2 }}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: {{ max 1 (div .startupSeconds 5) }}
readinessProbe:
  {{- include "treedraft.probe" (dict "root" .root) | nindent 2 }}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 3
livenessProbe:
  {{- include "treedraft.probe" (dict "root" .root "service" "treedraft.liveness") | nindent 2 }}
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: 6
lifecycle:
  preStop:
    {{- include "treedraft.preStop" (dict "root" .root "seconds" .preStopSeconds) | nindent 4 }}
resources:
  {{- include "treedraft.resources" .spec | nindent 2 }}
securityContext:
  {{- include "treedraft.containerSecurity" . | nindent 2 }}
volumeMounts:
  - name: tmp
    mountPath: /tmp
  {{- if .root.Values.tls.enabled }}
  - name: tls
    mountPath: /etc/treedraft/tls
    readOnly: true
  {{- end }}
  {{- with .mounts }}
  {{- . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "treedraft.resources" -}}
{{- $resources := deepCopy .resources }}
{{- if .gpus }}
{{- $resources = set $resources "limits" (set (deepCopy (default dict $resources.limits)) .gpuResource (toString .gpus)) }}
{{- end }}
{{- toYaml $resources }}
{{- end }}

{{- /* (dict "root" $ "component" …): volumes that all our services have. */}}
{{- define "treedraft.volumes" -}}
{{- if .root.Values.tls.enabled }}
- name: tls
  secret:
    secretName: {{ include "treedraft.tls.secret" . }}
    defaultMode: 0440
{{- end }}
{{- end }}
