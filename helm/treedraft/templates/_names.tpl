{{- /* Names, labels and images. */ -}}

{{- define "treedraft.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /* At most 28 characters: "-target-" and a pool's name follow, and the name of a StatefulSet
       may have 52. */}}
{{- define "treedraft.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride }}
{{- else if contains .Chart.Name .Release.Name }}
{{- .Release.Name | trunc 28 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 28 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- /* (dict "root" $ "component" "target" "pool" "main"): the name of what belongs to it. */}}
{{- define "treedraft.componentName" -}}
{{- $name := printf "%s-%s" (include "treedraft.fullname" .root) .component }}
{{- with .pool }}{{ $name = printf "%s-%s" $name . }}{{ end }}
{{- $name }}
{{- end }}

{{- define "treedraft.selectorLabels" -}}
app.kubernetes.io/name: {{ include "treedraft.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- with .pool }}
treedraft/pool: {{ . }}
{{- end }}
{{- end }}

{{- define "treedraft.labels" -}}
{{ include "treedraft.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- /* (dict "root" $ "component" … "pool" … "suffix" …): metadata of an object. */}}
{{- define "treedraft.metadata" -}}
metadata:
  name: {{ include "treedraft.componentName" . }}{{ with .suffix }}-{{ . }}{{ end }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "treedraft.labels" . | nindent 4 }}
    {{- with .labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{- /* (dict "root" $ "image" values): an image's full name. */}}
{{- define "treedraft.image" -}}
{{- if .image.digest }}
{{- printf "%s@%s" .image.repository .image.digest }}
{{- else }}
{{- printf "%s:%s" .image.repository (default .root.Chart.AppVersion .image.tag) }}
{{- end }}
{{- end }}

{{- /* (list base over): base, and over it what `over` says. Sprig's own merge takes 0 and false
       for nothing. */}}
{{- define "treedraft.merge" -}}
{{- $base := deepCopy (index . 0) }}
{{- range $name, $value := index . 1 }}
{{- if and (kindIs "map" $value) (kindIs "map" (get $base $name)) }}
{{- $value = include "treedraft.merge" (list (get $base $name) $value) | fromJson }}
{{- end }}
{{- $base = set $base $name $value }}
{{- end }}
{{- toJson $base }}
{{- end }}

{{- /* (dict "root" $ "component" "target"): its pools by name, defaults filled in, as JSON. */}}
{{- define "treedraft.pools" -}}
{{- $defaults := get .root.Values (printf "%sDefaults" .component) }}
{{- $pools := dict }}
{{- range $name, $pool := get .root.Values (printf "%sPools" .component) }}
{{- $merged := include "treedraft.merge" (list $defaults (default dict $pool)) | fromJson }}
{{- $pools = set $pools $name $merged }}
{{- end }}
{{- toJson $pools }}
{{- end }}
