{{- define "wakeport.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 46 | trimSuffix "-" }}
{{- end }}

{{- /* A pod's name is 17 characters longer. wakeport finds its pod by its host name, which has 63 at most. */}}
{{- define "wakeport.fullname" -}}
{{- $name := include "wakeport.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 46 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 46 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 46 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "wakeport.selector" -}}
app.kubernetes.io/name: {{ include "wakeport.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "wakeport.labels" -}}
{{ include "wakeport.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "wakeport.account" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "wakeport.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- /* A list of one or several, as {"list": [...]}. */}}
{{- define "wakeport.list" -}}
{{- if kindIs "slice" . }}{{ dict "list" . | toJson }}{{ else }}{{ dict "list" (list .) | toJson }}{{ end }}
{{- end }}

{{- /* KIND/NAME as wakeport reads it: group, plural, name, and what its Lease is called after. */}}
{{- define "wakeport.workload" -}}
{{- $parts := splitn "/" 2 . }}
{{- $kind := $parts._0 }}
{{- $known := dict
  "deployment" (list "apps" "deployments") "deployments" (list "apps" "deployments")
  "deploy" (list "apps" "deployments") "deployments.apps" (list "apps" "deployments")
  "statefulset" (list "apps" "statefulsets") "statefulsets" (list "apps" "statefulsets")
  "sts" (list "apps" "statefulsets") "statefulsets.apps" (list "apps" "statefulsets")
  "replicaset" (list "apps" "replicasets") "replicasets" (list "apps" "replicasets")
  "rs" (list "apps" "replicasets") "replicasets.apps" (list "apps" "replicasets")
  "replicationcontroller" (list "" "replicationcontrollers") "replicationcontrollers" (list "" "replicationcontrollers")
  "rc" (list "" "replicationcontrollers") }}
{{- if hasKey $known $kind }}
{{- $found := get $known $kind }}
{{- $plural := index $found 1 }}
{{- dict "group" (index $found 0) "plural" $plural "name" $parts._1 "lease" (trimSuffix "s" $plural) | toJson }}
{{- else }}
{{- $words := splitList "." $kind }}
{{- if lt (len $words) 2 }}
{{- fail (printf "%s: write KIND/NAME, as in deployment/web, or PLURAL[.VERSION].GROUP/NAME" .) }}
{{- end }}
{{- $group := rest $words }}
{{- if and (gt (len $group) 1) (regexMatch "^v[0-9][a-z0-9]*$" (first $group)) }}
{{- $group = rest $group }}
{{- end }}
{{- dict "group" (join "." $group) "plural" (first $words) "name" $parts._1 "lease" (first $words) | toJson }}
{{- end }}
{{- end }}

{{- /* The Leases of all services, as {"list": [...]}. */}}
{{- define "wakeport.leases" -}}
{{- $leases := list }}
{{- range $service := .Values.services }}
{{- $scale := first (get (include "wakeport.list" $service.scale | fromJson) "list") }}
{{- $workload := include "wakeport.workload" $scale | fromJson }}
{{- $name := printf "wakeport-%s-%s" $workload.lease $workload.name }}
{{- $leases = append $leases (default $name $service.lease) }}
{{- end }}
{{- dict "list" ($leases | uniq | sortAlpha) | toJson }}
{{- end }}

{{- /* A value of wakeport's file: of TOML. */}}
{{- define "wakeport.value" -}}
{{- if kindIs "slice" . }}[{{ range $index, $one := . }}{{ if $index }}, {{ end }}{{ include "wakeport.value" $one }}{{ end }}]
{{- else if kindIs "bool" . }}{{ . }}
{{- else if kindIs "string" . }}{{ . | toJson }}
{{- else }}{{ printf "%.0f" (float64 .) | quote }}
{{- end }}
{{- end }}

{{- define "wakeport.file" -}}
{{- if .Values.defaults }}
[defaults]
{{- range $key, $value := .Values.defaults }}
{{ $key }} = {{ include "wakeport.value" $value }}
{{- end }}
{{ end }}
{{- range $name, $service := .Values.services }}
[service.{{ $name }}]
{{- range $key, $value := $service }}
{{ $key }} = {{ include "wakeport.value" $value }}
{{- end }}
{{ end }}
{{- end }}
