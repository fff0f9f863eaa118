{{- define "prefixgate.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "prefixgate.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "prefixgate.labels" -}}
{{ include "prefixgate.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "prefixgate.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ default (include "prefixgate.name" .) .Values.serviceAccount.name }}{{ else }}{{ default "default" .Values.serviceAccount.name }}{{ end }}
{{- end }}

{{- define "prefixgate.secret" -}}
{{- default (include "prefixgate.name" .) .Values.existingSecret }}
{{- end }}

{{/* The chart writes where the gateway listens into the [server] table, so that the probes are right. */}}
{{- define "prefixgate.config" -}}
{{- $listen := "[server]\nhost = \"0.0.0.0\"\nport = 8080\nadmin_port = 8081" -}}
{{- if regexMatch "(?m)^\\[server\\]\\s*$" .Values.config -}}
{{ regexReplaceAll "(?m)^\\[server\\]\\s*$" .Values.config $listen }}
{{- else -}}
{{ printf "%s\n%s" $listen .Values.config }}
{{- end -}}
{{- end }}
