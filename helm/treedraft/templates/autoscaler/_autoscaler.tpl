{{- /* Which pools our autoscaler sizes, as JSON: each pool of targets, and with it the pool of drafters
       that it names, or else the one of its own name. */}}
{{- define "treedraft.autoscaler.pools" -}}
{{- $root := . }}
{{- $drafts := include "treedraft.pools" (dict "root" . "component" "draft") | fromJson }}
{{- $pools := list }}
{{- range $name, $spec := include "treedraft.pools" (dict "root" . "component" "target") | fromJson }}
{{- if $spec.scaling.enabled }}
{{- $pool := dict "target" (include "treedraft.autoscaler.workload" (dict "root" $root "component" "target" "pool" $name "spec" $spec) | fromJson) }}
{{- with $spec.model.name }}{{ $pool = set $pool "model" . }}{{ end }}
{{- $drafters := default $name $spec.drafters }}
{{- if and $spec.drafters (not (hasKey $drafts $drafters)) }}
{{- fail (printf "targetPools.%s.drafters: there is no draftPools.%s" $name $drafters) }}
{{- end }}
{{- $draft := get $drafts $drafters }}
{{- if and $draft (dig "scaling" "enabled" false $draft) }}
{{- $pool = set $pool "draft" (include "treedraft.autoscaler.workload" (dict "root" $root "component" "draft" "pool" $drafters "spec" $draft) | fromJson) }}
{{- end }}
{{- $pools = append $pools $pool }}
{{- end }}
{{- end }}
{{- toJson $pools }}
{{- end }}

{{- /* (dict "root" $ "component" … "pool" … "spec" …): a workload as our autoscaler is told of it. */}}
{{- define "treedraft.autoscaler.workload" -}}
{{- dict "kind" .spec.workload "name" (include "treedraft.componentName" .) "min_replicas" .spec.scaling.minReplicas "max_replicas" .spec.scaling.maxReplicas | toJson }}
{{- end }}

{{- /* The workloads that it sizes, as a JSON list. */}}
{{- define "treedraft.autoscaler.workloads" -}}
{{- $found := list }}
{{- range include "treedraft.autoscaler.pools" . | fromJsonArray }}
{{- $found = append $found .target }}
{{- if .draft }}{{ $found = append $found .draft }}{{ end }}
{{- end }}
{{- toJson $found }}
{{- end }}

{{- define "treedraft.autoscaler.env" -}}
{{- $each := printf "%s-each.%s.svc:%s" (include "treedraft.componentName" (dict "root" . "component" "coordinator")) .Release.Namespace (include "treedraft.port.grpc" .) }}
{{- $owned := dict "coordinators" $each "namespace" .Release.Namespace "pools" (include "treedraft.autoscaler.pools" .) }}
{{- $owned = set $owned "leader" (dict "lease_name" (include "treedraft.componentName" (dict "root" . "component" "autoscaler"))) }}
{{- if .Values.autoscaling.autoscaler.apiKeySecret.name }}
{{- $owned = set $owned "api_key_file" (printf "/etc/treedraft/key/%s" (default "key" .Values.autoscaling.autoscaler.apiKeySecret.key)) }}
{{- end }}
{{- include "treedraft.env" (dict "root" . "component" "autoscaler" "settings" .Values.autoscaling.autoscaler.settings "owned" $owned) }}
{{- end }}

{{- define "treedraft.autoscaler.volumes" -}}
{{- include "treedraft.volumes" (dict "root" . "component" "autoscaler") }}
{{- with .Values.autoscaling.autoscaler.apiKeySecret.name }}
- name: key
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- end }}

{{- define "treedraft.autoscaler.mounts" -}}
{{- with .Values.autoscaling.autoscaler.apiKeySecret.name }}
- name: key
  mountPath: /etc/treedraft/key
  readOnly: true
{{- end }}
{{- end }}
