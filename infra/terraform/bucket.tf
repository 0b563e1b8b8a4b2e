# The bucket that runs write to. Lifecycle filters know prefixes, not patterns, and of a run's files some must stay and
# some may go. What may go lies below one prefix of each output:
#
#   <output>/<title>/<language>.mp4, .json     products and their records: stay
#   <output>/_talklip/faces/, adapted/         caches that later runs read: stay
#   <output>/_talklip/runs/                    results and dead letters: stay
#   <output>/_talklip/parts/                   staged parts: a run removes its own, `talklip gc` those of runs that died,
#                                              and what nobody removed goes after `staged_days`

resource "aws_s3_bucket" "results" {
  bucket        = var.bucket
  force_destroy = false
}

resource "aws_s3_bucket_public_access_block" "results" {
  bucket                  = aws_s3_bucket.results.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "results" {
  bucket = aws_s3_bucket.results.id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_versioning" "results" {
  bucket = aws_s3_bucket.results.id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "results" {
  bucket = aws_s3_bucket.results.id

  rule {
    bucket_key_enabled = var.kms_key_arn != ""

    apply_server_side_encryption_by_default {
      sse_algorithm     = var.kms_key_arn != "" ? "aws:kms" : "AES256"
      kms_master_key_id = var.kms_key_arn != "" ? var.kms_key_arn : null
    }
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "results" {
  bucket     = aws_s3_bucket.results.id
  depends_on = [aws_s3_bucket_versioning.results]

  # Killed writers leave uploads that nobody sees and everybody pays for.
  rule {
    id     = "unfinished-uploads"
    status = "Enabled"
    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = 3
    }
  }

  rule {
    id     = "replaced-versions"
    status = "Enabled"
    filter {}

    noncurrent_version_expiration {
      noncurrent_days = 30
    }

    expiration {
      expired_object_delete_marker = true
    }
  }

  # Every part is deleted once its product is there; versioning would keep all of them for a month.
  dynamic "rule" {
    for_each = toset(var.outputs)

    content {
      id     = "staged-parts-${substr(sha256(rule.value), 0, 12)}"
      status = "Enabled"

      filter {
        prefix = rule.value == "" ? "_talklip/parts/" : "${rule.value}/_talklip/parts/"
      }

      expiration {
        days = var.staged_days
      }

      noncurrent_version_expiration {
        noncurrent_days = 1
      }
    }
  }
}

data "aws_iam_policy_document" "tls" {
  statement {
    sid       = "OnlyTls"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [aws_s3_bucket.results.arn, "${aws_s3_bucket.results.arn}/*"]

    principals {
      type        = "*"
      identifiers = ["*"]
    }

    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

resource "aws_s3_bucket_policy" "results" {
  bucket = aws_s3_bucket.results.id
  policy = data.aws_iam_policy_document.tls.json
}
