{{/*
At most 52 characters, so that a Job has room for "-" and ten more: its name is a label of its pods, and has 63.
What has to be cut or changed gets a hash of all of it, so that two long releases do not share a Job.
*/}}
{{- define "alembic-job.fullname" -}}
{{- $chart := .Values.nameOverride | default .Chart.Name -}}
{{- $wanted := .Values.fullnameOverride | default (eq .Release.Name $chart | ternary $chart (printf "%s-%s" .Release.Name $chart)) -}}
{{- $plain := regexReplaceAll "[^a-z0-9-]+" (lower $wanted) "-" -}}
{{- if or (gt (len $plain) 52) (ne $plain $wanted) -}}
{{- printf "%s-%s" (trunc 43 $plain | trimSuffix "-") (sha256sum $wanted | trunc 8) -}}
{{- else -}}
{{- $plain -}}
{{- end -}}
{{- end }}

{{/*
In a hook the Job is deleted before it is made again, and may keep its name. Otherwise a new content needs a new name, since
a Job's template is immutable. Under Flux each revision of the release does too: what failed is tried again then.
*/}}
{{- define "alembic-job.jobName" -}}
{{- if has .Values.mode (list "job" "flux") -}}
{{- $content := print (include "alembic-job.jobSpec" .) .Values.database.url -}}
{{- if eq .Values.mode "flux" }}{{ $content = print $content .Release.Revision }}{{ end -}}
{{- printf "%s-%s" (include "alembic-job.fullname" .) (sha256sum $content | trunc 10) -}}
{{- else -}}
{{- include "alembic-job.fullname" . -}}
{{- end -}}
{{- end }}

{{- define "alembic-job.secretName" -}}
{{- if .Values.database.url -}}
{{- include "alembic-job.fullname" . }}-database
{{- else -}}
{{- .Values.database.existingSecret -}}
{{- end -}}
{{- end }}

{{- define "alembic-job.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "alembic-job.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{- define "alembic-job.image" -}}
{{- with .Values.image -}}
{{- .repository }}{{ with .tag }}:{{ . }}{{ end }}{{ with .digest }}@{{ . }}{{ end -}}
{{- end -}}
{{- end }}

{{/* The pods' labels. "name" is the chart's, whatever the overrides say: a selector of the application must not match them. */}}
{{- define "alembic-job.podLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "alembic-job.labels" -}}
{{ include "alembic-job.podLabels" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimAll "-_." }}
{{- with .Values.image.tag }}
app.kubernetes.io/version: {{ trunc 63 . | trimAll "-_." | quote }}
{{- end }}
{{- end }}

{{/* What is made for the Job: there before it, in the modes where the Job comes before everything else. */}}
{{- define "alembic-job.suppliesAnnotations" -}}
{{- if eq .Values.mode "hook" -}}
helm.sh/hook: pre-install,pre-upgrade
helm.sh/hook-weight: "-10"
helm.sh/hook-delete-policy: before-hook-creation
{{- else if eq .Values.mode "argocd" -}}
{{- if eq .Values.argocd.hook "PreSync" -}}
argocd.argoproj.io/hook: PreSync
argocd.argoproj.io/hook-delete-policy: BeforeHookCreation
{{ end -}}
argocd.argoproj.io/sync-wave: {{ sub .Values.argocd.syncWave 1 | quote }}
{{- end -}}
{{- end }}
