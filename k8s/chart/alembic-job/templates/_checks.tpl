{{/* What the schema cannot see: what contradicts each other, or cannot work. All of it at once, as the program says its settings. */}}
{{- define "alembic-job.check" -}}
{{- $problems := list (include "alembic-job.checkNeeded" .) (include "alembic-job.checkModes" .) (include "alembic-job.checkSecrets" .) (include "alembic-job.checkTimes" .) | join "\n" -}}
{{- $said := list -}}
{{- range splitList "\n" $problems }}{{ with trim . }}{{ $said = append $said . }}{{ end }}{{ end -}}
{{- with $said -}}
{{- fail (printf "\n\n%s\n" (join "\n\n" .)) -}}
{{- end -}}
{{- end }}

{{- define "alembic-job.checkNeeded" -}}
{{- $values := .Values -}}
{{- with .Values.image }}
{{- if not .repository }}
image.repository is missing: write the image that holds your migrations, as image.repository=registry.example.com/bookshop-migrate.
{{- else if regexMatch "[:@]" (base .repository) }}
image.repository is {{ .repository }}: write the tag in image.tag, and the digest in image.digest.
{{- else if not (or .tag .digest) }}
image.tag is missing: write the tag of {{ .repository }}, or its digest in image.digest.
{{- else if and (eq .tag "latest") (not .digest) (has $values.mode (list "job" "flux")) }}
image.tag is latest, and mode {{ $values.mode }} makes a new Job for a new content only: it would never run again. Write a tag that changes with the image.
{{- end }}
{{- end }}
{{- end }}

{{- define "alembic-job.checkModes" -}}
{{- $mode := .Values.mode -}}
{{- range $key, $value := .Values.annotations | default dict }}
{{- if has $key (list "helm.sh/hook" "helm.sh/hook-delete-policy" "argocd.argoproj.io/hook" "argocd.argoproj.io/hook-delete-policy") }}
annotations has {{ $key }}, and mode is {{ $mode }}: two modes at once. Write mode: {{ hasPrefix "helm" $key | ternary "hook" "argocd" }}, and remove the annotation; the mode sets it.
{{- end }}
{{- if or (and (eq $key "helm.sh/hook-weight") (ne $mode "hook")) (and (eq $key "argocd.argoproj.io/sync-wave") (eq $mode "hook")) }}
annotations has {{ $key }}, and mode is {{ $mode }}, which does not know it: remove it, or choose the mode that does.
{{- end }}
{{- end }}
{{- if and (ne .Values.argocd.hook "PreSync") (ne $mode "argocd") }}
argocd.hook is {{ .Values.argocd.hook }}, and mode is {{ $mode }}: two modes at once. Write mode: argocd, or remove argocd.hook.
{{- end }}
{{- if and .Values.sameRelease (eq $mode "hook") }}
sameRelease is true, and mode is hook: Helm runs the Job before it makes anything else of the release, so that the first installation would wait for a database, a Secret or a ServiceAccount that comes after it. Write mode: job, and let the application's pods wait (alembic-job.wait); or make what the Job needs before this release, and remove sameRelease.
{{- end }}
{{- if and .Values.sameRelease (eq $mode "argocd") (eq .Values.argocd.hook "PreSync") }}
sameRelease is true, and argocd.hook is PreSync: Argo CD runs the Job before it makes anything else of the application. Write argocd.hook: Sync, and give what the Job needs an earlier sync wave.
{{- end }}
{{- if and (not (kindIs "invalid" .Values.ttlSecondsAfterFinished)) (has $mode (list "hook" "argocd")) }}
ttlSecondsAfterFinished is set, and mode is {{ $mode }}: the Job stays until the next one, so that the logs of a failure can be read. Remove it.
{{- end }}
{{- end }}

{{- define "alembic-job.checkSecrets" -}}
{{- $database := .Values.database -}}
{{- $given := or $database.existingSecret $database.url -}}
{{- $secrets := list "DATABASE_URL" "DB_PASSWORD" "LOCK_DATABASE_URL" "SCRATCH_URL" -}}
{{- $settings := .Values.settings | default dict -}}
{{- range $secrets }}
{{- if hasKey $settings . }}
settings.{{ . }} is a secret, and would be readable in the Job: put it into a Secret, and write database.existingSecret and database.keys.{{ . }}, the key in it.
{{- end }}
{{- end }}
{{- $names := list }}
{{- range .Values.extraEnv }}{{ $names = append $names .name }}{{ end }}
{{- $elsewhere := or .Values.extraEnvFrom (hasKey $settings "DB_DRIVER") }}
{{- range $names }}
{{- if regexMatch "^(ALEMBIC_JOB_)?(DATABASE_URL|DB_)" . }}{{ $elsewhere = true }}{{ end }}
{{- end }}
{{- if and $database.existingSecret $database.url }}
database.existingSecret and database.url are both given: write the one or the other.
{{- else if and $database.keys (not $database.existingSecret) }}
database.keys is given without a Secret: write its name in database.existingSecret.
{{- else if not (or $given $elsewhere) }}
No database: write the name of the Secret that holds the database URL in database.existingSecret (kubectl create secret generic bookshop-database --from-literal=url=postgresql://…), or, for trying it out, the URL in database.url.
{{- end }}
{{- if and $given (not $database.keys) }}
{{- range $name, $value := $settings }}
{{- if hasPrefix "DB_" $name }}
settings.{{ $name }} is given beside a URL: write the whole URL into the Secret, or take the parts that are secret from it with database.keys.
{{- end }}
{{- end }}
{{- end }}
{{- if and $given $database.keys (not (hasKey $database.keys "DATABASE_URL")) (not .Values.extraEnvFrom) }}
{{- if not (or $elsewhere (regexMatch "(^| )DB_" (keys $database.keys | sortAlpha | join " "))) }}
database.keys has no URL: write the key of the database URL in database.keys.DATABASE_URL.
{{- else if not (has "ALEMBIC_JOB_DATABASE_URL" $names) }}
{{- range $name := list "DB_DRIVER" "DB_NAME" }}
{{- if not (or (hasKey $database.keys $name) (hasKey $settings $name) (has (printf "ALEMBIC_JOB_%s" $name) $names)) }}
database.keys has parts of a URL, and {{ $name }} is missing: write settings.{{ $name }}, or its key in database.keys.{{ $name }}.
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- $set := dict -}}
{{- range include "alembic-job.env" (dict "root" (dict "Values" (omit .Values "extraEnv") "Chart" .Chart "Release" .Release) "settings" (include "alembic-job.settings" . | fromYaml)) | fromYamlArray }}
{{- $_ := set $set .name true }}
{{- end }}
{{- range .Values.extraEnv }}
{{- $name := trimPrefix "ALEMBIC_JOB_" .name }}
{{- if and (hasKey . "value") (or (eq .name "DATABASE_URL") (and (hasPrefix "ALEMBIC_JOB_" .name) (has $name $secrets))) }}
extraEnv has {{ .name }} with its value, a secret that would be readable in the Job: write valueFrom.secretKeyRef, or database.existingSecret.
{{- else if hasKey $set .name }}
extraEnv has {{ .name }}, which the chart sets: {{ if hasPrefix "ALEMBIC_JOB_" .name }}write settings.{{ trimSuffix "_FILE" $name }}, or database for what is secret{{ else }}remove it{{ end }}.
{{- else if and $given (not $database.keys) (regexMatch "^ALEMBIC_JOB_DATABASE_URL" .name) }}
extraEnv has {{ .name }}, and database has a Secret: write the one or the other.
{{- else if hasKey $set (printf "%s_FILE" .name) }}
extraEnv has {{ .name }}, and database.keys.{{ $name }} is given: write the one or the other.
{{- end }}
{{- end }}
{{- end }}

{{- define "alembic-job.checkTimes" -}}
{{- $settings := list (include "alembic-job.defaults" . | fromYaml) (include "alembic-job.settings" . | fromYaml) | include "alembic-job.overlay" | fromYaml -}}
{{- $s := dict -}}
{{- range $name := list "WAIT_TIMEOUT" "RETRY_REFUSED_FOR" "LOCK_TIMEOUT" "DDL_RETRY_FOR" "STOP_GRACE" "TIMEOUT" }}
{{- if hasKey $settings $name }}{{ $_ := set $s $name (include "alembic-job.seconds" (get $settings $name) | float64) }}{{ end }}
{{- end }}
{{- /* The pauses between the attempts: 10 s, 20 s, 40 s … at most 6 minutes. */}}
{{- $backoff := include "alembic-job.backoffLimit" . | int }}
{{- $attempts := add1 $backoff }}
{{- $pauses := 0 }}
{{- $pause := 10 }}
{{- range until (min $backoff 1000 | int) }}{{ $pauses = add $pauses $pause }}{{ $pause = min 360 (mul 2 $pause) }}{{ end }}
{{- $login := maxf (get $s "WAIT_TIMEOUT") (get $s "RETRY_REFUSED_FOR") }}
{{- $before := addf $login (get $s "LOCK_TIMEOUT") }}
{{- if ge (get $s "STOP_GRACE") (get $s "LOCK_TIMEOUT") }}
STOP_GRACE is {{ get $settings "STOP_GRACE" }}, and LOCK_TIMEOUT {{ get $settings "LOCK_TIMEOUT" }}: the next Job gives up while the one before it is still stopping. Write a settings.LOCK_TIMEOUT that is longer than settings.STOP_GRACE.
{{- end }}
{{- if gt (addf (get $s "STOP_GRACE") 10.0) (float64 .Values.terminationGracePeriodSeconds) }}
STOP_GRACE is {{ get $settings "STOP_GRACE" }}, and terminationGracePeriodSeconds {{ include "alembic-job.text" .Values.terminationGracePeriodSeconds }}: the pod is killed before the statement that was cancelled is undone. Write a settings.STOP_GRACE at least 10 s shorter, or raise terminationGracePeriodSeconds.
{{- end }}
{{- if has .Values.mode (list "hook" "flux") }}
{{- $helm := include "alembic-job.seconds" .Values.helmTimeout | float64 }}
{{- $ttl := .Values.ttlSecondsAfterFinished }}
{{- if and (eq .Values.mode "flux") (not (kindIs "invalid" $ttl)) }}
{{- if le (float64 $ttl) $helm }}
ttlSecondsAfterFinished is {{ include "alembic-job.text" $ttl }}, and helmTimeout {{ .Values.helmTimeout }}: Flux may still wait for the release when the Job is gone, and miss it. Raise ttlSecondsAfterFinished, or remove it.
{{- end }}
{{- end }}
{{- $waits := addf (mulf (addf $before (get $s "DDL_RETRY_FOR")) $attempts) $pauses }}
{{- if ge $waits $helm }}
helmTimeout is {{ .Values.helmTimeout }}, and the Job may wait for {{ include "alembic-job.text" $waits }} s: {{ $attempts }} x (WAIT_TIMEOUT {{ include "alembic-job.text" $login }} s + LOCK_TIMEOUT {{ include "alembic-job.text" (get $s "LOCK_TIMEOUT") }} s + DDL_RETRY_FOR {{ include "alembic-job.text" (get $s "DDL_RETRY_FOR") }} s) + {{ $pauses }} s between the attempts. {{ eq .Values.mode "hook" | ternary "Helm" "Flux" }} would give up first, without a reason, and the Job go on. Lower them in settings, lower backoffLimit, or raise helmTimeout together with {{ eq .Values.mode "hook" | ternary "helm upgrade --timeout" "spec.timeout of the HelmRelease" }}.
{{- else if hasKey $s "TIMEOUT" }}
{{- if ge (addf $before (get $s "TIMEOUT")) $helm }}
helmTimeout is {{ .Values.helmTimeout }}, and TIMEOUT {{ get $settings "TIMEOUT" }} after up to {{ include "alembic-job.text" $before }} s of waiting: {{ eq .Values.mode "hook" | ternary "Helm" "Flux" }} would give up first. Lower settings.TIMEOUT, or raise helmTimeout together with {{ eq .Values.mode "hook" | ternary "helm upgrade --timeout" "spec.timeout of the HelmRelease" }}.
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.activeDeadlineSeconds }}
{{- if not (hasKey $s "TIMEOUT") }}
activeDeadlineSeconds is {{ include "alembic-job.text" . }}, and settings.TIMEOUT is not set: the Job would be ended in the middle of a migration. Write settings.TIMEOUT, after which the program itself ends in good order, and an activeDeadlineSeconds above it; or remove activeDeadlineSeconds.
{{- else }}
{{- $takes := addf (mulf (addf $before (get $s "TIMEOUT")) $attempts) $pauses }}
{{- if lt (float64 .) $takes }}
activeDeadlineSeconds is {{ include "alembic-job.text" . }}, and the Job may take {{ include "alembic-job.text" $takes }} s: {{ $attempts }} x (WAIT_TIMEOUT + LOCK_TIMEOUT + TIMEOUT) + {{ $pauses }} s between the attempts. Raise it, or remove it.
{{- end }}
{{- end }}
{{- end }}
{{- end }}
