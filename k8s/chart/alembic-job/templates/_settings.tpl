{{/* A list of maps as one map, as YAML: the later win. "merge" will not do, it takes false and 0 for nothing. */}}
{{- define "alembic-job.overlay" -}}
{{- $all := dict -}}
{{- range . }}{{ range $key, $value := . }}{{ if not (kindIs "invalid" $value) }}{{ $_ := set $all $key $value }}{{ end }}{{ end }}{{ end -}}
{{- toYaml $all -}}
{{- end }}

{{/* A number as one would write it: YAML's numbers are floats here, and 1000000 would become 1e+06. */}}
{{- define "alembic-job.text" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) }}{{ printf "%.0f" . }}{{ else }}{{ printf "%v" . }}{{ end -}}
{{- end }}

{{/* A duration in seconds: 500ms, 30s, 5m, 1h, or seconds. */}}
{{- define "alembic-job.seconds" -}}
{{- $text := include "alembic-job.text" . | nospace -}}
{{- $units := dict "ms" 0.001 "s" 1.0 "m" 60.0 "h" 3600.0 "" 1.0 -}}
{{- mulf (regexFind "^[0-9.]+" $text | float64) (get $units (regexFind "[a-z]*$" $text)) -}}
{{- end }}

{{/* What the modes say where the values do not. Helm gives up after helmTimeout, and the Job goes on: let it say by itself what it waits for. */}}
{{- define "alembic-job.modeSettings" -}}
{{- if has .Values.mode (list "hook" "flux") -}}
WAIT_TIMEOUT: 30s
LOCK_TIMEOUT: 75s
DDL_RETRY_FOR: 30s
STOP_GRACE: 60s
{{- else -}}
STOP_GRACE: 290s
{{- end -}}
{{- end }}

{{/* The defaults of the program that the checks count with. */}}
{{- define "alembic-job.defaults" -}}
WAIT_TIMEOUT: 120s
RETRY_REFUSED_FOR: 0s
LOCK_TIMEOUT: 15m
DDL_RETRY_FOR: 5m
STOP_GRACE: 8s
{{- end }}

{{/* The settings in force, as YAML. */}}
{{- define "alembic-job.settings" -}}
{{- list (include "alembic-job.modeSettings" . | fromYaml) .Values.settings | include "alembic-job.overlay" -}}
{{- end }}

{{- define "alembic-job.backoffLimit" -}}
{{- if kindIs "invalid" .Values.backoffLimit -}}
{{- has .Values.mode (list "hook" "flux") | ternary 1 3 -}}
{{- else -}}
{{- int .Values.backoffLimit -}}
{{- end -}}
{{- end }}

{{/* Whether the pod is started without the Secret. Where that comes with the release, it may be late. */}}
{{- define "alembic-job.optional" -}}
{{- kindIs "invalid" .Values.database.optional | ternary (not .Values.sameRelease) .Values.database.optional -}}
{{- end }}

{{/* Secrets that the program reads from files, again for every connection. */}}
{{- define "alembic-job.withFile" -}}
[DATABASE_URL, DB_PASSWORD, DB_USER, LOCK_DATABASE_URL, SCRATCH_URL]
{{- end }}

{{/* The variables of settings: a dict of root and settings. */}}
{{- define "alembic-job.env" -}}
{{- $root := .root -}}
{{- $own := dict "LOG_FORMAT" "json" "IMAGE" (include "alembic-job.image" $root) -}}
{{- range $name, $value := list $own .settings | include "alembic-job.overlay" | fromYaml }}
- name: ALEMBIC_JOB_{{ $name }}
  value: {{ include "alembic-job.text" $value | quote }}
{{- end }}
{{- with $root.Values.database }}
{{- $secret := include "alembic-job.secretName" $root }}
{{- $files := include "alembic-job.withFile" $root | fromYamlArray }}
{{- if .keys }}
{{- range $name, $key := .keys }}
{{- if has $name $files }}
- name: ALEMBIC_JOB_{{ $name }}_FILE
  value: /run/secrets/database/{{ $key }}
{{- else }}
- name: ALEMBIC_JOB_{{ $name }}
  valueFrom:
    secretKeyRef:
      name: {{ $secret }}
      key: {{ $key }}
      optional: {{ include "alembic-job.optional" $root }}
{{- end }}
{{- end }}
{{- else if $secret }}
- name: ALEMBIC_JOB_DATABASE_URL_FILE
  value: /run/secrets/database/{{ .url | empty | ternary .key "url" }}
{{- end }}
{{- end }}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: NODE_NAME
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
{{- with $root.Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}
