{{- /* Certificates: one Secret a component, mounted where every service looks. */ -}}

{{- define "treedraft.tls.name" -}}
{{- default (printf "%s.%s.svc" (include "treedraft.fullname" .) .Release.Namespace) .Values.tls.serverName }}
{{- end }}

{{- define "treedraft.tls.env" -}}
{{- if .Values.tls.enabled }}
{{- $name := include "treedraft.tls.name" . }}
{{- $tls := dict "ca" "/etc/treedraft/tls/ca.crt" "certificate" "/etc/treedraft/tls/tls.crt" "key" "/etc/treedraft/tls/tls.key" }}
{{- $tls = set $tls "server_name" $name }}
{{- $tls = set $tls "service_names" (list $name) }}
{{- $tls = set $tls "require_client_certificate" .Values.tls.requireClientCertificate }}
{{- include "treedraft.settings" (dict "prefix" "TREEDRAFT_TLS" "values" $tls) }}
{{- end }}
{{- end }}

{{- /* (dict "root" $ "component" "target"): the Secret with its certificate. */}}
{{- define "treedraft.tls.secret" -}}
{{- if .root.Values.tls.certManager.enabled }}
{{- printf "%s-%s-tls" (include "treedraft.fullname" .root) .component }}
{{- else }}
{{- required "tls.secretName: name the Secret with tls.crt, tls.key and ca.crt, or enable tls.certManager" .root.Values.tls.secretName }}
{{- end }}
{{- end }}

{{- /* Who needs a certificate, as JSON. Those of `helm test` and of the autoscaler
       are clients' ones. */}}
{{- define "treedraft.tls.components" -}}
{{- $components := list "coordinator" "target" "test" }}
{{- if .Values.draftPools }}{{ $components = append $components "draft" }}{{ end }}
{{- if eq .Values.autoscaling.kind "treedraft" }}{{ $components = append $components "autoscaler" }}{{ end }}
{{- toJson $components }}
{{- end }}
